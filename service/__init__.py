"""mana-credits: prepaid-credit billing on PostgreSQL."""
