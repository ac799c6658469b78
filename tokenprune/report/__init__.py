"""Makes tables, figures, insights and the page out of result rows."""
