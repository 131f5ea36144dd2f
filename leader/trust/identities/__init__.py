"""Identities: how they are issued, proven by certificate or JWT, kept, and revoked."""
