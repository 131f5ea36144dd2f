"""Who may take part: identities, roles, limits, and the audit of all that."""
