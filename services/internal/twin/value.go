package twin

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Bounded cuts a client's text that goes into an error.
func Bounded(name string) string {
	const most = 64
	if len(name) <= most {
		return name
	}
	return name[:most]
}

// Text reads a string.
func Text(field string, value []byte) (string, error) {
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

// Integer reads a whole number that is not negative.
func Integer(field string, value []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil || len(value) > 1 && value[0] == '0' { // which JSON does not have
		return 0, fault.New(fault.FieldInvalid, field, "%s must be a whole number that is not negative", field)
	}
	return n, nil
}

// Texts reads an array of strings.
func Texts(field string, value []byte) (all []string, err error) {
	err = Array(field, value, func(_ int, element []byte) error {
		s, err := Text(field, element)
		if err != nil {
			return fault.New(fault.FieldInvalid, field, "%s must hold strings only", field)
		}
		all = append(all, s)
		return nil
	})
	return all, err
}
