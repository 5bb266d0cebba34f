"""Models for a user's classes: a classifier, a new head, a mean of several."""
