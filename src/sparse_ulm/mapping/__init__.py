"""From blocks to maps: accumulation, true maps of simulated bubbles, figures."""
