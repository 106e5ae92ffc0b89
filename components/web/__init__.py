"""What the pages that we serve to people share: safe HTML, security headers, signed cookies and rate limits."""
