"""The global model: where it begins, its versions, and what of it travels down."""
