"""Language modelling: a decoder-only ladder of sizes on real text, on one's own, or on a known source."""
