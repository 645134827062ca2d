"""Deep features kept between steps: less work for nearly the same picture."""
