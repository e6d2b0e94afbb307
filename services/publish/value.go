package publish

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// bounded cuts a client's text that goes into an error.
func bounded(name string) string {
	const most = 64
	if len(name) <= most {
		return name
	}
	return name[:most]
}

func text(field string, value []byte) (string, error) {
	if len(value) == 0 || value[0] != '"' {
		return "", fault.New(fault.FieldInvalid, field, "%s must be a string", field)
	}
	if !utf8.Valid(value) {
		return "", fault.New(fault.FieldInvalid, field, "%s is not valid UTF-8", field)
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return "", fault.New(fault.FieldInvalid, field, "%s is not a JSON string", field)
	}
	return s, nil
}

func binary(field string, value []byte) ([]byte, error) {
	encoded, err := text(field, value)
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
	err := parseObject(field, value, func(name string, value []byte) error {
		if _, twice := all[name]; twice {
			return fault.New(fault.HeaderInvalid, field, "header %.64q stands twice", name)
		}
		s, err := text(field, value)
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

func integer(field string, value []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil || len(value) > 1 && value[0] == '0' { // which JSON does not have
		return 0, fault.New(fault.FieldInvalid, field, "%s must be a whole number that is not negative", field)
	}
	return n, nil
}

func texts(field string, value []byte) (all []string, err error) {
	err = parseArray(field, value, func(_ int, element []byte) error {
		s, err := text(field, element)
		if err != nil {
			return fault.New(fault.FieldInvalid, field, "%s must hold strings only", field)
		}
		all = append(all, s)
		return nil
	})
	return all, err
}
