"""How a learner is registered and driven: by the session that it opens, or by being dialled."""
