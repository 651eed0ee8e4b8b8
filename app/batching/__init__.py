"""When items of many requests run together. Knows neither models nor backends: it is handed callables."""
