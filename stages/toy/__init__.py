"""The embedded default: toy maths problems, a dense toy teacher and a mixture-of-experts toy student."""
