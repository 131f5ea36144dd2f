"""The edge (`python -m leader.edge`): takes uploads in the leader's place, checks and adds them, and gives it sums."""
