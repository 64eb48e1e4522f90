"""Training of Sensestream's embedded demo model: connected spoken digits in five languages."""
