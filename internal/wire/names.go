package wire

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	streamPrefix = "KV_"
	keySpace     = "$KV."

	// AllKeys is the filter that every key matches.
	AllKeys = ">"

	// MaxKeyLength bounds keys and filters, in bytes. A server closes the connection on a
	// protocol line of more than 4096 bytes (max_control_line), and the longest line that a key
	// appears in also carries the API prefix, two bucket names and a reply inbox.
	MaxKeyLength = 3072

	// maxBucketLength leaves room for the prefix in the 255 bytes of a stream name.
	maxBucketLength = 255 - len(streamPrefix)
)

// keySpaceOf is the prefix of the subjects of a bucket's stream that is no mirror.
func keySpaceOf(stream string) string {
	return keySpace + strings.TrimPrefix(stream, streamPrefix) + "."
}

// CheckBucket reports why name cannot be a bucket's name (ADR-8: letters, digits, "_" and "-").
func CheckBucket(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidBucketName)
	case len(name) > maxBucketLength:
		return fmt.Errorf("%w: %s has %d bytes, at most %d are possible", ErrInvalidBucketName, Quote(name), len(name), maxBucketLength)
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
			return fmt.Errorf("%w: %s has %s, allowed are letters, digits, _ and -", ErrInvalidBucketName, Quote(name), quoteByte(c))
		}
	}
	return nil
}

// CheckKey reports why key cannot be a key (ADR-8: letters, digits and -/_=. with no empty token).
func CheckKey(key string) error {
	if reason := tokensFault(key, false); reason != "" {
		return fmt.Errorf("%w: %s %s", ErrInvalidKey, Quote(key), reason)
	}
	return nil
}

// CheckFilter reports why filter is no pattern over keys. "*" stands for one whole token,
// ">" for one or more at the end.
func CheckFilter(filter string) error {
	if reason := tokensFault(filter, true); reason != "" {
		return fmt.Errorf("%w: %s %s", ErrInvalidFilter, Quote(filter), reason)
	}
	return nil
}

// tokensFault says what is wrong with s as a dot-separated name, or nothing.
func tokensFault(s string, wildcards bool) string {
	if s == "" {
		return "is empty"
	}
	if len(s) > MaxKeyLength {
		return fmt.Sprintf("has %d bytes, at most %d are possible", len(s), MaxKeyLength)
	}
	start := 0 // of the current token
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			if i == start {
				return "has an empty token"
			}
			start = i + 1
			continue
		}
		c := s[i]
		if wildcards && (c == '*' || c == '>') {
			whole := i == start && (i+1 == len(s) || s[i+1] == '.')
			if !whole {
				return fmt.Sprintf("has the wildcard %c as part of a token, it must be a token of its own", c)
			}
			if c == '>' && i+1 != len(s) {
				return "has the wildcard > before its end"
			}
			continue
		}
		if !isKeyByte(c) {
			return "has " + quoteByte(c) + ", allowed are letters, digits and -/_=."
		}
	}
	return ""
}

// hasWildcard is a little wider than the truth for keys, in which a wildcard may be part of a token. No
// client of buckets writes either, but whoever publishes to the subject can: the server stores it as it is.
func hasWildcard(s string) bool { return strings.ContainsAny(s, "*>") }

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isKeyByte(c byte) bool {
	return isAlphanumeric(c) || c == '-' || c == '/' || c == '_' || c == '='
}

// Quote shows a name in an error: as it is when it is short and plain, else quoted and cut.
func Quote(name string) string {
	const most = 64
	if len(name) > most {
		return strconv.Quote(name[:most]) + "..."
	}
	return strconv.Quote(name)
}

func quoteByte(c byte) string {
	if c >= 0x80 {
		return fmt.Sprintf("the byte 0x%02x", c)
	}
	return strconv.QuoteRune(rune(c))
}

// FoldFilters returns patterns that together match what filters match and that do not overlap
// (a server refuses a consumer whose filters do, error 10138). exact is false when they match
// more than filters do: "a.*" and "*.b" can only be read as "*.*".
func FoldFilters(filters []string) (folded []string, exact bool) {
	keys, patterns := make([]string, 0, len(filters)), []string(nil)
	seen := make(map[string]bool, len(filters))
	for _, filter := range filters {
		switch {
		case seen[filter]:
		case hasWildcard(filter):
			patterns = append(patterns, filter)
		default:
			keys = append(keys, filter)
		}
		seen[filter] = true
	}
	patterns, exact = foldPatterns(patterns)
	// Of keys there may be thousands, and two of them do not overlap.
	keys = slices.DeleteFunc(keys, func(key string) bool { return matchAny(patterns, key) })
	return append(keys, patterns...), exact
}

func foldPatterns(folded []string) (_ []string, exact bool) {
	exact = true
	for i := 0; i < len(folded); i++ {
		for j := i + 1; j < len(folded); j++ {
			a, b := folded[i], folded[j]
			if !overlap(a, b) {
				continue
			}
			union := generalise(a, b)
			exact = exact && (union == a || union == b)
			folded[i] = union
			folded = append(folded[:j], folded[j+1:]...)
			// The union may overlap what came before it too.
			i, j = -1, len(folded)
		}
	}
	return folded, exact
}

// overlap reports whether some key matches both patterns.
func overlap(a, b string) bool {
	for {
		ta, ra, moreA := strings.Cut(a, ".")
		tb, rb, moreB := strings.Cut(b, ".")
		if ta == ">" || tb == ">" {
			return true
		}
		if ta != tb && ta != "*" && tb != "*" {
			return false
		}
		if moreA != moreB {
			return false
		}
		if !moreA {
			return true
		}
		a, b = ra, rb
	}
}

// generalise returns the narrowest pattern that matches all that overlapping a and b match.
func generalise(a, b string) string {
	var union strings.Builder
	for {
		ta, ra, moreA := strings.Cut(a, ".")
		tb, rb, moreB := strings.Cut(b, ".")
		switch {
		case ta == ">" || tb == ">":
			union.WriteString(">")
			return union.String()
		case ta == tb:
			union.WriteString(ta)
		default:
			union.WriteString("*")
		}
		if !moreA || !moreB {
			return union.String()
		}
		union.WriteByte('.')
		a, b = ra, rb
	}
}

// cover returns a pattern that matches the key and all that pattern matches.
func cover(pattern, key string) string {
	if Match(pattern, key) {
		return pattern
	}
	var union strings.Builder
	for {
		tp, rp, moreP := strings.Cut(pattern, ".")
		tk, rk, moreK := strings.Cut(key, ".")
		switch {
		case tp == ">" || moreP != moreK:
			union.WriteString(">")
			return union.String()
		case tp == tk:
			union.WriteString(tp)
		default:
			union.WriteString("*")
		}
		if !moreP {
			return union.String()
		}
		union.WriteByte('.')
		pattern, key = rp, rk
	}
}

// Match reports whether key matches the pattern filter.
func Match(filter, key string) bool {
	for {
		tf, rf, moreF := strings.Cut(filter, ".")
		tk, rk, moreK := strings.Cut(key, ".")
		if tf == ">" {
			return true
		}
		if tf != tk && tf != "*" {
			return false
		}
		if !moreF || !moreK {
			return moreF == moreK
		}
		filter, key = rf, rk
	}
}

func matchAny(filters []string, key string) bool {
	for _, filter := range filters {
		if Match(filter, key) {
			return true
		}
	}
	return false
}
