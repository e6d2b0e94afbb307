package stream

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// Headers of a stored message. All others are the publisher's own.
const (
	// The publisher is percent-encoded, since a user id may hold any printable
	// Unicode and begin with a space.
	headerPublisher   = "Carillon-Publisher"
	headerMessageID   = "Carillon-Message-Id"
	headerContentType = "Carillon-Content-Type" // absent with JSON
	headerTime        = "Carillon-Time"         // ephemeral only: Unix nanoseconds
	headerTTL         = "Carillon-TTL"          // stored only: whole seconds; absent without
	headerPurge       = "Carillon-Purge"        // purgeMark on what stands for a purge

	headerNATSID       = "Nats-Msg-Id"
	headerExpected     = "Nats-Expected-Last-Subject-Sequence"
	headerRollup       = "Nats-Rollup"
	headerSubject      = "Nats-Subject"
	headerSequence     = "Nats-Sequence"
	headerPending      = "Nats-Num-Pending"   // of a direct get: how many more follow
	headerUpTo         = "Nats-UpTo-Sequence" // of a direct get: what the answer covers
	headerLastSequence = "Nats-Last-Sequence"
	headerTimestamp    = "Nats-Time-Stamp"
)

const (
	purgeMark = "1"
	// maxTTL is what a time.Duration can hold, in whole seconds.
	maxTTL = time.Duration(math.MaxInt64) / time.Second
)

// draft is an encoded message, in one allocation with the values of its header where
// the publisher has set none of its own. Who does not need it any more may give it back.
type draft struct {
	msg    nats.Msg
	values []string
	own    [maxOwn]string
}

// maxOwn is how many headers of Carillon's and NATS's a message may have.
const maxOwn = 6

// drafts are kept with the map of their header, which is the larger part of what it
// takes to encode a message.
var drafts = sync.Pool{New: func() any { return &draft{msg: nats.Msg{Header: make(nats.Header, maxOwn)}} }}

// release gives a draft back; nothing of it may be used any more. A connection copies
// what it is given to publish.
func (d *draft) release() {
	header := d.msg.Header
	if len(header) > maxOwn { // it has grown
		return
	}
	clear(header)
	*d = draft{msg: nats.Msg{Header: header}}
	drafts.Put(d)
}

func (d *draft) set(name, value string) {
	d.values = append(d.values, value)
	d.msg.Header[name] = d.values[len(d.values)-1 : len(d.values) : len(d.values)]
}

// encode writes a publication as the NATS message for a subject.
func encode(p message.Publication, subject string) *draft {
	d, _ := drafts.Get().(*draft)
	d.msg.Subject, d.msg.Data = subject, p.Payload.Data
	d.values = d.own[:0]
	if len(p.Headers) > 0 {
		d.values = make([]string, 0, maxOwn+len(p.Headers))
	}
	for name, value := range p.Headers {
		d.set(name, value)
	}
	d.set(headerPublisher, url.PathEscape(p.Publisher.Name))
	if p.ID != "" {
		d.set(headerMessageID, p.ID)
	}
	if p.Traceparent != "" {
		d.set(headerTraceparent, p.Traceparent)
	}
	if !p.Payload.IsJSON() {
		d.set(headerContentType, p.Payload.ContentType)
	}
	return d
}

// encodeStored adds what NATS recognises a repetition by: for a publication without an
// ID something random, so that Publish itself may try again.
func encodeStored(p message.Publication, subject string) *draft {
	d := encode(p, subject)
	if p.ID == "" {
		d.set(headerNATSID, rand.Text())
	} else {
		d.set(headerNATSID, deduplicationID(p))
	}
	if p.TTL > 0 {
		d.set(headerTTL, seconds(p.TTL))
	}
	return d
}

// seconds is a TTL as it travels: rounded up, so that no message expires early.
func seconds(ttl time.Duration) string {
	if ttl <= 0 {
		return ""
	}
	whole := ttl / time.Second
	if ttl%time.Second != 0 {
		whole++
	}
	return strconv.FormatInt(int64(whole), 10)
}

// encodePurge makes what stands for a purge in the channel's order. Its random id lets
// it be sent again.
func encodePurge(subject string) *nats.Msg {
	return &nats.Msg{Subject: subject, Header: nats.Header{headerPurge: {purgeMark}, headerNATSID: {rand.Text()}}}
}

func encodeEphemeral(p message.Publication, now time.Time) *draft {
	d := encode(p, subjectEphemeral+string(p.Channel))
	d.set(headerTime, strconv.FormatInt(now.UnixNano(), 10))
	return d
}

// deduplicationID is 128 bits of a hash, since the table of a stream is shared by the
// channels and publishers of its partition, and no one may meet another's id.
func deduplicationID(p message.Publication) string {
	text := make([]byte, 0, 512)
	for _, part := range [...]string{p.Publisher.Issuer, p.Publisher.Name, string(p.Channel), p.ID} {
		text = binary.AppendUvarint(text, uint64(len(part)))
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// sameContent tells whether a stored message is what the publication says, whatever the
// traces of either. NATS cuts white space from the front of values.
func sameContent(p message.Publication, header nats.Header, data []byte) bool {
	if string(p.Payload.Data) != string(data) || seconds(p.TTL) != trim(first(header, headerTTL)) ||
		trim(p.Payload.ContentType) != trim(first(header, headerContentType)) {
		return false
	}
	theirs := 0
	for name := range header {
		if !reserved(name) {
			theirs++
		}
	}
	if theirs != len(p.Headers) {
		return false
	}
	for name, value := range p.Headers {
		stored, ok := header[name]
		if !ok || len(stored) != 1 || trim(stored[0]) != trim(value) {
			return false
		}
	}
	return true
}

func trim(value string) string { return strings.Trim(value, " \t") }

func first(header nats.Header, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// last returns what the server has set, where the message has a header of that name too.
func last(header nats.Header, name string) string {
	if values := header[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// reserved tells whether a header is NATS's or Carillon's, which publishers cannot
// use (message.ReservedHeaders), or says which trace the message is part of.
func reserved(name string) bool {
	for _, prefix := range message.ReservedHeaders {
		if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return true
		}
	}
	return strings.EqualFold(name, headerTraceparent) || strings.EqualFold(name, "tracestate")
}
