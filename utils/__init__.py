"""What leader and learner both need: errors, settings, logging, seeds, batches, datasets, codecs, fault points."""

import os

# gRPC reads this when it is loaded. What goes wrong is told once, in our words: its own lines about a taken
# port or a lost peer would stand between them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
