//! The derive macro behind `milena-wire`.
