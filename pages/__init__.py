"""How Hortus's pages look: one style sheet, one way to draw a plot, the parts that they share."""
