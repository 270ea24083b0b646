// The client and the sync-billing store that every page shares: the same modules as the apps'.

import { createCreditsClient } from "../client/credits-client.js";
import { createSyncBilling } from "../client/sync-billing.js";
import { base, getToken } from "./session.js";

export const api = createCreditsClient({ baseUrl: location.origin + base, getToken });
export const sync = createSyncBilling(api);
