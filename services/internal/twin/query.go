package twin

import (
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Query says which parameters a GET takes.
type Query struct {
	// Parameter checks one; its error is a *fault.Error that names it, UnknownParameter
	// where there is no such parameter. Bounds may be left to the contract.
	Parameter func(name, value string) error
	// Exclusive are pairs of parameters that a gRPC request cannot have both.
	Exclusive []Exclusive
}

// UnknownParameter is the error about a parameter that there is not.
func UnknownParameter(name string) error {
	return fault.New(fault.FieldInvalid, Bounded(name), "there is no parameter %.64q", name)
}

// Check checks a query as it stands in a URL. Its errors are *fault.Error and name the
// parameter.
func (q *Query) Check(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fault.New(fault.FieldInvalid, "", "the query is malformed")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return fault.New(fault.FieldInvalid, Bounded(name), "%.64q stands twice", name)
		}
		if err := q.Parameter(name, values.Get(name)); err != nil {
			return err
		}
	}
	for _, pair := range q.Exclusive {
		if values.Has(pair.One) && values.Has(pair.Other) {
			return pair.both()
		}
	}
	return nil
}

// wantQuery refuses a query that the gateway would not understand, or would take for
// less than it says: it skips what it does not know.
func (h *HTTP) wantQuery(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if method, ok := h.methods[r.URL.Path]; ok && method.Query != nil {
			if err := method.Query.Check(r.URL.RawQuery); err != nil {
				h.refuse(w, r, fault.From(err), 0)
				return
			}
		}
		next(w, r, path)
	}
}
