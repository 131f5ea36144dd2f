"""What leader and learner share: errors, seeds, payloads, framing, datasets."""

import os

# gRPC reads this when it is loaded. What goes wrong is told once, in our words: its own lines about a taken
# port or a lost peer would stand between them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
