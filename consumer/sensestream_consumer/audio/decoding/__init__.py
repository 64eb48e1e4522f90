"""From the bytes of any container to mono samples at 16 kHz, within bounds."""
