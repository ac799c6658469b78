"""Tables, figures, insights and the page: what people read of rows."""
