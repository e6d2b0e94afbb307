package publish

import (
	"encoding/base64"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

func binary(field string, value []byte) ([]byte, error) {
	encoded, err := twin.Text(field, value)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fault.New(fault.FieldInvalid, field, "%s is not base64 (RFC 4648 section 4, padded)", field)
	}
	return data, nil
}

func headers(field string, value []byte) (map[string]string, error) {
	all := map[string]string{}
	err := twin.Object(field, value, func(name string, value []byte) error {
		if _, twice := all[name]; twice {
			return fault.New(fault.HeaderInvalid, field, "header %.64q stands twice", name)
		}
		s, err := twin.Text(field, value)
		if err != nil {
			return fault.New(fault.FieldInvalid, field, "%s must hold strings, and %.64q is none", field, name)
		}
		all[name] = s
		return nil
	})
	return all, err
}

// duration reads what protobuf's JSON mapping writes: seconds and an s, in quotes.
func duration(field string, value []byte) (*durationpb.Duration, error) {
	d := &durationpb.Duration{}
	if len(value) == 0 || value[0] != '"' || protojson.Unmarshal(value, d) != nil {
		return nil, fault.New(fault.FieldInvalid, field, "%s must be a string of seconds such as \"60s\"", field)
	}
	return d, nil
}
