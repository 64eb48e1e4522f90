"""English digits as speakers of other languages say them: their own sounds for the English ones.

Each espeak-ng voice reads the words as its language would spell what it hears in them.
"""

from __future__ import annotations

from typing import Final

from training.sentences import words_of

__all__ = ["ACCENT", "ACCENTED"]

# The labels' language; the answers are English.
ACCENT: Final = "accent"
# By espeak-ng voice: zero to nine.
ACCENTED: Final[dict[str, tuple[str, ...]]] = {
    voice: words_of(words)
    for voice, words in (
        ("bg", "зироу уан ту три фор файв сикс севън ейт найн"),
        ("cs", "zírou uan tú srí fór fajv siks sevn ejt najn"),
        ("de", "siero wan tu sri vor feif six sewen äit nein"),
        ("el", "ζίροου ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν"),
        ("es", "sirou uan tu tri for faiv sics seven eit nain"),
        ("fi", "siirou van tuu trii foor faiv siks seven eit nain"),
        ("fr", "ziro ouane tou sri for faïve sixe sevenne éïte naïne"),
        ("hi", "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन"),
        ("hu", "ziró van tú szrí fór fájv sziksz szeven éjt nájn"),
        ("it", "zirou uan tu tri for faiv sics seven eit nain"),
        ("nl", "ziero wan toe srie for fijv siks seven eet nijn"),
        ("pl", "zirou łan tu sri for fajw siks sewen ejt najn"),
        ("pt", "zirou uan tu sri fór faive sics séven eite naine"),
        ("ro", "zirou uan tu tri for faiv sics seven eit nain"),
        ("ru", "зироу уан ту сри фор файв сикс севен эйт найн"),
        ("sv", "sirå oann to tri får fajv siks sevven ejt najn"),
        ("tr", "ziro van tu tri for fayv siks sevın eyt nayn"),
    )
}
