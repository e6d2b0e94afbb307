package jsontext_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/jsontext"
)

const maxDepth = 5

var texts = []string{
	`{}`, `[]`, `""`, `0`, `-0`, `-1.5e+10`, `1E9`, `2e-3`, `10`, `true`, `false`, `null`, ` [ 1 , 2 ] `, "\t{\"a\" :\n[ ] }\r",
	`{"a":{"b":[{"c":[]}]}}`, `[[[[[1]]]]]`, `[[[[[[1]]]]]]`, `"\"\\\/\b\f\n\r\t\u00e4\uD800"`, `"ä€😀"`, `{"":1,"":2}`,
	``, ` `, `{`, `}`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{1:1}`, `01`, `-`, `1.`, `.5`, `1e`, `1e+`, `+1`, `0x1`, `1 2`,
	`tru`, `truee`, `nul`, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\x01\"", "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc3\"", "\xc3\xa4", `"a" "b"`, "\x00", "[1\x00]", `[1:2]`, `{"a",1}`, "\u00a01", `[}`, `{]`,
}

// right is what encoding/json says.
func right(text []byte) (compact []byte, is bool) {
	var b bytes.Buffer
	is = utf8.Valid(text) && json.Compact(&b, text) == nil && depth(text) <= maxDepth
	return b.Bytes(), is
}

func depth(text []byte) (deepest int) {
	now, decoder := 0, json.NewDecoder(bytes.NewReader(text))
	for token, err := decoder.Token(); err == nil; token, err = decoder.Token() {
		switch token {
		case json.Delim('['), json.Delim('{'):
			now++
			deepest = max(deepest, now)
		case json.Delim(']'), json.Delim('}'):
			now--
		}
	}
	return deepest
}

func check(t *testing.T, text []byte) {
	t.Helper()
	given := bytes.Clone(text)
	want, is := right(text)
	got, ok := jsontext.Compact(text, maxDepth)
	if ok != is || ok && !bytes.Equal(got, want) {
		t.Errorf("%q: %q, %t, want %q, %t", text, got, ok, want, is)
	}
	r := jsontext.NewReader(text, maxDepth)
	value, ok := r.Value()
	if ok = ok && r.End(); ok != is || ok && !bytes.Equal(value, bytes.Trim(text, " \t\r\n")) {
		t.Errorf("%q: the value %q, %t, want %t", text, value, ok, is)
	}
	if !bytes.Equal(text, given) {
		t.Errorf("%q was modified: %q", given, text)
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for _, text := range texts {
		check(t, []byte(text))
		for i := range text { // whatever is cut off
			check(t, []byte(text[:i]))
			check(t, []byte(text[i:]))
		}
	}
}

func FuzzTexts(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(check)
}

func TestObject(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{ "a" : 1 , "b\n":{"c":[ ]}} x`: `a=1 b\n={c=[ ]}`,
		`{}`:                             ``,
	} {
		r := jsontext.NewReader([]byte(text), 3)
		var got []string
		if !r.Object(func(name []byte) bool {
			if string(name) == "a" {
				value, ok := r.Value()
				got = append(got, fmt.Sprintf("%s=%s", name, value))
				return ok
			}
			return r.Object(func(inner []byte) bool {
				value, ok := r.Value()
				got = append(got, fmt.Sprintf("%s={%s=%s}", name, inner, value))
				return ok
			})
		}) || strings.Join(got, " ") != want {
			t.Errorf("%s: %q", text, got)
		}
		if end := !strings.Contains(text, "x"); r.End() != end {
			t.Errorf("%s: at the end %t", text, !end)
		}
	}
}

func TestWhatIsCompactIsNotCopied(t *testing.T) { // not beside others, whose allocations would count
	text := []byte(`{"a":["b c",1.5,{"d":null}]}`)
	if n := testing.AllocsPerRun(100, func() {
		if got, ok := jsontext.Compact(text, maxDepth); !ok || &got[0] != &text[0] {
			t.Error("it was")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
