"""How servers and sites come together, renew their keys and certificates, and leave."""
