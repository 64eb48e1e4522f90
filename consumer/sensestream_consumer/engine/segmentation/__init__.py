"""Long recordings cut into pieces at pauses."""
