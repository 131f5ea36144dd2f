"""Work orders: one after the other, each becoming an update that is kept until its round is committed."""
