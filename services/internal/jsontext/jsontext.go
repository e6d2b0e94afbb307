// Package jsontext checks JSON texts (RFC 8259) in one pass, in which it also checks their
// UTF-8 and how deep they are nested, compacts them, or cuts values out. It knows right from
// wrong, no more: what is wrong with a text, and where, encoding/json says.
package jsontext

import "unicode/utf8"

// Compact returns a text of one value without the space that says nothing: the text itself
// where there is none. It is false for what is no such text, or has arrays and objects more
// than so many levels deep.
func Compact(text []byte, maxDepth int) ([]byte, bool) {
	r := Reader{text: text, depth: maxDepth, compacts: true}
	if !r.value() || !r.End() {
		return nil, false
	}
	if r.from == 0 {
		return text[:r.at], true
	}
	return append(r.compact, text[r.from:]...), true
}

// Reader reads a text value by value. Once something is false the text is not to be read
// any further.
type Reader struct {
	text  []byte
	at    int // what is before has been read
	depth int // levels that may still be entered

	compacts bool
	compact  []byte // what is before from, without space
	from     int
}

// NewReader reads a text with so many levels of arrays and objects at most.
func NewReader(text []byte, maxDepth int) *Reader { return &Reader{text: text, depth: maxDepth} }

// End tells whether nothing follows what has been read.
func (r *Reader) End() bool { return r.next() == 0 && r.at == len(r.text) }

// Value reads any value and returns its text, which it shares.
func (r *Reader) Value() ([]byte, bool) {
	r.next()
	start := r.at
	ok := r.value()
	return r.text[start:r.at], ok
}

// Object reads an object. member is called with the name of each member as it stands there,
// and reads its value.
func (r *Reader) Object(member func(name []byte) bool) bool {
	return r.list('{', '}', func() bool {
		r.next()
		start := r.at
		if !r.string() {
			return false
		}
		name := r.text[start+1 : r.at-1]
		if r.next() != ':' {
			return false
		}
		r.at++
		return member(name)
	})
}

// Array reads an array. element reads each of its values.
func (r *Reader) Array(element func() bool) bool { return r.list('[', ']', element) }

// list reads what stands between two brackets, separated by commas.
func (r *Reader) list(begin, end byte, element func() bool) bool {
	if r.next() != begin || r.depth == 0 {
		return false
	}
	r.depth--
	r.at++
	for first := true; ; first = false {
		if r.next() == end && first {
			break
		}
		if !element() {
			return false
		}
		if r.next() == end {
			break
		}
		if r.next() != ',' {
			return false
		}
		r.at++
	}
	r.depth++
	r.at++
	return true
}

func (r *Reader) value() bool {
	switch c := r.next(); c {
	case '{':
		return r.Object(func([]byte) bool { return r.value() })
	case '[':
		return r.list('[', ']', r.value)
	case '"':
		return r.string()
	case 't':
		return r.literal("true")
	case 'f':
		return r.literal("false")
	case 'n':
		return r.literal("null")
	default:
		return r.number()
	}
}

// next leaves out space and returns the byte that follows; 0 at the end.
func (r *Reader) next() byte {
	if r.at < len(r.text) && r.text[r.at] > ' ' {
		return r.text[r.at]
	}
	return r.afterSpace()
}

func (r *Reader) afterSpace() byte {
	start := r.at
	for r.at < len(r.text) {
		switch c := r.text[r.at]; c {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			r.skip(start)
			return c
		}
	}
	r.skip(start)
	return 0
}

// skip leaves out of what is compacted what has been read from a place on.
func (r *Reader) skip(start int) {
	if !r.compacts || start == r.at {
		return
	}
	if r.compact == nil {
		r.compact = make([]byte, 0, len(r.text)-1)
	}
	r.compact = append(r.compact, r.text[r.from:start]...)
	r.from = r.at
}

func (r *Reader) literal(word string) bool {
	if len(r.text)-r.at < len(word) || string(r.text[r.at:r.at+len(word)]) != word {
		return false
	}
	r.at += len(word)
	return true
}

func (r *Reader) number() bool {
	r.is('-')
	if !r.is('0') && !r.digits() {
		return false
	}
	if r.is('.') && !r.digits() {
		return false
	}
	if r.is('e') || r.is('E') {
		if !r.is('+') {
			r.is('-')
		}
		return r.digits()
	}
	return true
}

// is reads a byte, if it is that.
func (r *Reader) is(c byte) bool {
	if r.at == len(r.text) || r.text[r.at] != c {
		return false
	}
	r.at++
	return true
}

// digits reads at least one.
func (r *Reader) digits() bool {
	start := r.at
	for r.at < len(r.text) && '0' <= r.text[r.at] && r.text[r.at] <= '9' {
		r.at++
	}
	return r.at > start
}

// plain are the bytes that stand in a string for themselves, and are ASCII.
var plain = func() (is [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

func (r *Reader) string() bool {
	if !r.is('"') {
		return false
	}
	text, at := r.text, r.at
	for at < len(text) {
		c := text[at]
		switch {
		case plain[c]:
			at++
		case c == '"':
			r.at = at + 1
			return true
		case c == '\\':
			n := escape(text[at:])
			if n == 0 {
				return false
			}
			at += n
		case c < ' ':
			return false
		default:
			char, n := utf8.DecodeRune(text[at:])
			if char == utf8.RuneError && n == 1 {
				return false
			}
			at += n
		}
	}
	return false
}

// escape is the length of the escape that a text begins with; 0: it is none.
func escape(text []byte) int {
	if len(text) < 2 {
		return 0
	}
	switch text[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	const length = len(`\u0000`)
	if len(text) < length {
		return 0
	}
	for _, c := range text[2:length] {
		digit := '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
		if !digit {
			return 0
		}
	}
	return length
}
