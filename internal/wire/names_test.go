package wire

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// What the stock client accepts (nats.go v1.55.0, jetstream/kv.go).
var (
	stockBucketName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	stockKey        = regexp.MustCompile(`^[-/_=\.a-zA-Z0-9]+$`)
	stockFilter     = regexp.MustCompile(`^[-/_=\.a-zA-Z0-9*]*[>]?$`)
)

func stockAccepts(key string) bool {
	return key != "" && key[0] != '.' && key[len(key)-1] != '.' && stockKey.MatchString(key)
}

func TestFiltersThatAreRefused(t *testing.T) {
	for _, test := range []struct{ filter, because string }{
		{"", "it is empty"},
		{".", "two empty tokens"},
		{"a..>", "an empty token inside"},
		{"a.", "an empty token at the end"},
		{">.a", "> stands for the rest"},
		{">.>", "> stands for the rest"},
		{"a>", "> is part of a token"},
		{"a.b>", "> is part of a token"},
		{">a", "> is part of a token"},
		{"a*", "* is part of a token, which the server takes for a character"},
		{"*a", "* is part of a token"},
		{"a*b", "* is part of a token"},
		{"**", "* is part of a token"},
		{"*>", "two wildcards in a token"},
		{"user.1*", "* is part of a token"},
		{"a b", "a space"},
		{"a.\x00", "a control character"},
		{"ä.*", "a letter beyond ASCII"},
		{strings.Repeat("*.", MaxKeyLength) + ">", "too long"},
	} {
		err := CheckFilter(test.filter)
		require.ErrorIs(t, err, ErrInvalidFilter, test.because)
		require.Less(t, len(err.Error()), 250)
	}
	for _, filter := range []string{">", "*", "*.*", "a", "a.>", "*.a.>", "a.*.c", "-/_=.*"} {
		require.NoError(t, CheckFilter(filter))
	}
}

func TestMatchKnowsWildcards(t *testing.T) {
	for _, test := range []struct {
		filter, key string
		want        bool
	}{
		{">", "a", true},
		{">", "a.b.c", true},
		{"*", "a", true},
		{"*", "a.b", false},
		{"*.*", "a.b", true},
		{"a.>", "a", false}, // > is one token at least
		{"a.>", "a.b", true},
		{"a.>", "a.b.c", true},
		{"a.>", "ab.c", false},
		{"a.*.c", "a.b.c", true},
		{"a.*.c", "a.b.d", false},
		{"a.*.c", "a.b.b.c", false},
		{"a", "a", true},
		{"a", "a.b", false},
		{"a.b", "a", false},
	} {
		require.Equal(t, test.want, Match(test.filter, test.key), "%s %s", test.filter, test.key)
	}
}

func TestFoldFiltersJoinsWhatOverlaps(t *testing.T) {
	for _, test := range []struct {
		filters, want []string
		exact         bool
	}{
		{nil, nil, true},
		{[]string{"a", "b"}, []string{"a", "b"}, true},
		{[]string{"a", "a"}, []string{"a"}, true},
		{[]string{"a.b", "a.*"}, []string{"a.*"}, true},
		{[]string{"a.*", "a.b", "a.>"}, []string{"a.>"}, true},
		{[]string{"a.b", ">", "c"}, []string{">"}, true},
		{[]string{"a.*", "*.b"}, []string{"*.*"}, false},
		{[]string{"x.y", "a.*", "*.b"}, []string{"*.*"}, false}, // the union overlaps what came before
		{[]string{"a.*.c", "a.b.*"}, []string{"a.*.*"}, false},
	} {
		given := slices.Clone(test.filters)
		folded, exact := FoldFilters(given)
		require.ElementsMatch(t, test.want, folded)
		require.Equal(t, test.exact, exact, "%v", test.filters)
		require.Equal(t, test.filters, given, "what is handed in is not written to")
	}
}

func TestQuoteKeepsErrorsToALine(t *testing.T) {
	require.Equal(t, `"a b"`, Quote("a b"))
	require.Equal(t, `"a\nb"`, Quote("a\nb"))
	require.Less(t, len(Quote(strings.Repeat("\x00", 1<<20))), 300)
}

func FuzzKey(f *testing.F) {
	for _, seed := range []string{
		"a", "sue.color", "a/b=c_d-e", "", ".", "..", ".a", "a.", "a..b", "a b", "a\n", "*", ">", "a.*", "a.>", "a*", "ä", "\x00", "\xff",
		strings.Repeat("k", MaxKeyLength), strings.Repeat("k", MaxKeyLength+1),
	} {
		f.Add(seed)
	}
	b := &Bucket{readPrefix: "$KV.b."}
	f.Fuzz(func(t *testing.T, s string) {
		err := CheckKey(s)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidKey)
			require.Less(t, len(err.Error()), 400)
			require.False(t, strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }), "one plain line: %q", err.Error())
			require.False(t, stockAccepts(s) && !strings.Contains(s, "..") && len(s) <= MaxKeyLength, "ADR-8 allows %q", s)
		} else {
			require.True(t, stockAccepts(s), "%q", s)
			require.LessOrEqual(t, len(s), MaxKeyLength)
			require.NotContains(t, s, "..")
			require.True(t, server.IsValidLiteralSubject(b.Subject(s)), "%q", s)
			require.Equal(t, s, b.decode(b.Subject(s), 1, born, nil, nil).Key, "the key comes back from its subject")
			require.NoError(t, CheckFilter(s), "a key is a pattern of itself")
			require.True(t, Match(s, s))
			require.True(t, Match(">", s))
		}
		if CheckFilter(s) == nil {
			require.True(t, stockFilter.MatchString(s), "%q", s)
			require.True(t, server.IsValidSubject(b.Subject(s)), "%q", s)
		} else {
			require.Error(t, CheckKey(s))
		}
		if err := CheckBucket(s); err == nil {
			require.True(t, stockBucketName.MatchString(s), "%q", s)
			require.True(t, server.IsValidLiteralSubject(keySpaceOf(streamPrefix+s)+"k"))
		} else {
			require.ErrorIs(t, err, ErrInvalidBucketName)
			require.False(t, stockBucketName.MatchString(s) && len(s) <= maxBucketLength, "ADR-8 allows %q", s)
		}
	})
}

// pattern makes a valid pattern of up to four tokens out of any number: "a", "b" and wildcards.
func pattern(n uint16, wildcards bool) string {
	tokens := []string{"a", "b"}
	if wildcards {
		tokens = append(tokens, "*", ">")
	}
	var p []string
	for range 1 + n%4 {
		n /= 4
		p = append(p, tokens[int(n)%len(tokens)])
		if p[len(p)-1] == ">" {
			break
		}
	}
	return strings.Join(p, ".")
}

func FuzzFilters(f *testing.F) {
	f.Add(uint16(0), uint16(1), uint16(2), uint16(3))
	f.Add(uint16(9), uint16(33), uint16(1025), uint16(17))
	f.Add(uint16(173), uint16(999), uint16(77), uint16(4095))
	f.Fuzz(func(t *testing.T, a, b, c, k uint16) {
		filters := []string{pattern(a, true), pattern(b, true), pattern(c, true)}
		key := pattern(k, false)
		folded, exact := FoldFilters(filters)
		for i, one := range folded {
			require.NoError(t, CheckFilter(one))
			for _, other := range folded[i+1:] {
				require.False(t, server.SubjectsCollide(one, other), "%v became %v", filters, folded)
			}
		}
		for _, filter := range filters {
			require.NoError(t, CheckFilter(filter))
			require.Equal(t, server.SubjectMatchesFilter(key, filter), Match(filter, key), "%s %s, as the server sees it", filter, key)
			for _, other := range filters {
				require.Equal(t, server.SubjectsCollide(filter, other), overlap(filter, other), "%s and %s", filter, other)
			}
			wider := cover(filter, key)
			require.NoError(t, CheckFilter(wider))
			require.True(t, Match(wider, key))
			require.True(t, server.SubjectMatchesFilter(filter, wider), "%s is not all of %s", wider, filter)
		}
		if matchAny(filters, key) {
			require.True(t, matchAny(folded, key), "%s of %v is lost by %v", key, filters, folded)
		} else if exact {
			require.False(t, matchAny(folded, key), "%s is not of %v", key, filters)
		}
	})
}
