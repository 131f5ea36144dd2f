"""Plain HTTP for learners without gRPC: each request becomes the call that it stands for, behind the same guard."""
