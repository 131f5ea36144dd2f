"""What both ends of a connection agree on to trust each other: names, keys, certificates, tokens, membership."""
