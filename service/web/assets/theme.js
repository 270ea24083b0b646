// Runs before the first paint, so that a chosen theme does not flash: not a module on purpose.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("mana-theme");
  } catch {
    // No storage, no choice: the system's theme.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
