"""Networks for small images, and their seeded initial weights."""
