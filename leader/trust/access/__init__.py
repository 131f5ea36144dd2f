"""Access: what each call and connection is checked, limited and ended by."""
