"""Models for a user's classes: a classifier, a new head, several views, a mean of several."""
