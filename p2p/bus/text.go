package bus

import (
	"net"
	"net/netip"
	"strings"
	"unicode"
)

// What a text may be long at most, in bytes.
const (
	maxName = 128 // of a product, version or deployment
	maxText = 512 // of an error, hint or reason
)

// text makes s fit for the bus, which throws out whoever sends it other than UTF-8 without zero bytes, and for a screen.
func text(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return unicode.ReplacementChar
		}
		return r
	}, s[:min(len(s), 4*most)])
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// public is an error's text for everybody.
func public(s string) string {
	return text(private(s[:min(len(s), 4*maxText)]), maxText)
}

// private takes peers' names and addresses out of an error's text: whoever has an account on the machine can read it.
func private(s string) string {
	words := strings.Split(s, " ")
	for i, w := range words {
		bare := strings.Trim(w, `"'()<>,;:.`)
		if isAddress(bare) {
			words[i] = strings.Replace(w, bare, "(a peer)", 1)
		}
	}
	return strings.Join(words, " ")
}

func isAddress(w string) bool {
	for _, part := range []string{"/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/dnsaddr/", "12D3Koo"} {
		if strings.Contains(w, part) {
			return true
		}
	}
	for _, part := range strings.FieldsFunc(w, func(r rune) bool { return strings.ContainsRune("->=@/\n\t", r) }) {
		if host, _, err := net.SplitHostPort(part); err == nil {
			part = host
		}
		if _, err := netip.ParseAddr(strings.Trim(part, "[]:,")); err == nil {
			return true
		}
		if _, err := net.ParseMAC(part); err == nil {
			return true
		}
	}
	return false
}
