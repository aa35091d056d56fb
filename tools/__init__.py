"""Programs behind the `videoflamingo` command; each has `main(argv) -> int`. Nothing imports from here."""
