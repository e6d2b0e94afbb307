package twin

import (
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Form says what is special of an object's fields.
type Form struct {
	// Payload is the field whose value is a payload: a body that ends within it is
	// PAYLOAD_INVALID. Empty: there is none.
	Payload string
	// Exclusive are pairs of fields that a gRPC request cannot have both.
	Exclusive []Exclusive
}

// Exclusive are two fields, or parameters, of which there may be one; what they are
// called together stands in What.
type Exclusive struct{ One, Other, What string }

func (e Exclusive) both() *fault.Error {
	return fault.New(fault.FieldInvalid, e.Other, "%s and %s are two %s; send one", e.One, e.Other, e.What)
}

// FieldReader reads one field, if it is one of its own.
type FieldReader = func(name string, value []byte) (known bool, err error)

// Read reads an object's members, each by the first of the readers that knows it. place
// is where the object stands; empty for the body. Errors are *fault.Error and name the
// field.
func (f Form) Read(place string, object []byte, readers ...FieldReader) error {
	seen := map[string]bool{}
	read := func(name string, value []byte) error {
		if seen[name] {
			return fault.New(fault.FieldInvalid, Bounded(name), "%.64q stands twice", name)
		}
		seen[name] = true
		for _, reader := range readers {
			if known, err := reader(name, value); known {
				return err
			}
		}
		return fault.New(fault.FieldInvalid, Bounded(name), "there is no field %.64q", name)
	}
	err := parseObject(place, object, f.Payload, func(name string, value []byte) error {
		err := read(name, value)
		if place == "" {
			return err
		}
		return within(place, err)
	})
	if err != nil {
		return err
	}
	for _, pair := range f.Exclusive {
		if seen[pair.One] && seen[pair.Other] {
			if place == "" {
				return pair.both()
			}
			return within(place, pair.both())
		}
	}
	return nil
}
