package twin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// requestBody is a request's body. The gateway turns what a decoder returns into
// plain text, so the decoder leaves its error here for the error handler.
type requestBody struct {
	io.ReadCloser
	refusal error
	began   time.Time // the request
}

// marshaler is the JSON mapping of the APIs together.
type marshaler []API

// ContentType implements runtime.Marshaler.
func (marshaler) ContentType(any) string { return "application/json" }

// NewDecoder implements runtime.Marshaler.
func (m marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		err := m.decode(r, v)
		if body, ok := r.(*requestBody); ok {
			body.refusal = err
		}
		return err
	})
}

func (m marshaler) decode(r io.Reader, v any) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return m.Unmarshal(text, v)
}

// Unmarshal implements runtime.Marshaler.
func (m marshaler) Unmarshal(text []byte, v any) error {
	for _, api := range m {
		if known, err := api.Parse(text, v); known {
			return err
		}
	}
	return fmt.Errorf("%T has no JSON mapping", v)
}

// NewEncoder implements runtime.Marshaler.
func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		text, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}

// Marshal implements runtime.Marshaler.
func (m marshaler) Marshal(v any) ([]byte, error) {
	for _, api := range m {
		if body := api.Answer(v); body != nil {
			return Encode(body)
		}
	}
	return nil, fmt.Errorf("%T has no JSON mapping", v)
}

// Encode writes JSON that nobody reads as HTML.
func Encode(body any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(body)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}
