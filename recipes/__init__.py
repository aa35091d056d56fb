"""Recipes: YAML files for `videoflamingo fit`, listed by `videoflamingo recipes ls`. No Python lives here."""
