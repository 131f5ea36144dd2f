"""What an accelerator brings, with stand-ins for packages that its machine lacks: `make gpu`."""
