package frame

import (
	"reflect"
	"testing"
)

// frames are some, and whether they are read in one pass.
var frames = map[string]bool{
	`{"id":1,"publish":{"channel":"chat.a","data":{"a":[1, 2]}}}`:                              true,
	` { "publish" : { "data" : "x" , "messageId" : "m" , "channel" : "chat.a" } , "id" : 7 } `: true,
	`{"id":1,"publish":{"channel":"chat.a","data":null}}`:                                      true,
	`{"id":1,"publish":{}}`:                                                                 true,
	`{"id":1,"publish":{"channel":"ä","channel":"b"}}`:                                      false,
	`{"id":1,"publish":{"channel":"","channel":"b"}}`:                                       true,
	`{"id":1,"publish":{"channel":"chat.\u0061","data":1}}`:                                 false,
	`{"id":1,"publish":{"Channel":"chat.a","data":1}}`:                                      false,
	`{"id":1,"publish":{"channel":"chat.a","data":1,"data":2}}`:                             false,
	`{"id":1,"publish":{"channel":null,"data":1}}`:                                          false,
	`{"id":1,"publish":{"channel":1,"data":1}}`:                                             false,
	`{"id":1,"publish":{"channel":"chat.a","dataBase64":"AAA=","contentType":"image/png"}}`: false,
	`{"id":1,"publish":{"channel":"chat.a","data":1},"other":2}`:                            false,
	`{"id":1,"id":2,"publish":{"channel":"chat.a","data":1}}`:                               false,
	`{"id":1,"publish":{"channel":"chat.a","data":1},"publish":{}}`:                         false,
	`{"id":0,"publish":{"channel":"chat.a","data":1}}`:                                      false,
	`{"id":"1","publish":{"channel":"chat.a","data":1}}`:                                    false,
	`{"id":1.0,"publish":{"channel":"chat.a","data":1}}`:                                    false,
	`{"id":9007199254740992,"publish":{"channel":"chat.a","data":1}}`:                       false,
	`{"publish":{"channel":"chat.a","data":1}}`:                                             false,
	`{"id":1,"ping":{}}`:                                                false,
	`{"id":1,"publish":null}`:                                           false,
	`{"id":1,"publish":{"channel":"chat.a","data":1}} x`:                false,
	`{"id":1,"publish":{"channel":"chat.a","data":1,}}`:                 false,
	"{\"id\":1,\"publish\":{\"channel\":\"chat.a\",\"data\":\"\xff\"}}": false,
	`{"\u0069d":1,"publish":{"channel":"chat.a","data":1}}`:             false,
	`{"id":1,"publish":{"channel":"chat.a","data":` + nested(64) + `}}`: true,
	`{"id":1,"publish":{"channel":"chat.a","data":` + nested(65) + `}}`: false,

	`{"id":1,"connect":{}}`: true,
	`{"id":1,"connect":{"token":"a.b.c","client":{"name":"n","version":"1"},"subscriptions":[{"channel":"chat.a"}, {"channel":"chat.b","presence":true,"since":{"epoch":"E","offset":7}}],"info":{"n": 1}}}`: true,
	`{"id":1,"connect":{"client":{},"subscriptions":[],"info":null}}`:                                     true,
	`{"id":1,"connect":{"subscriptions":[{"since":{}},{}]}}`:                                              true,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","presence":false}]}}`:                        true,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","rewind":{"count":3}}]}}`:                    false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":null}]}}`:                            false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":{"offset":1.0}}]}}`:                  false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":{"offset":-1}}]}}`:                   false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":{"offset":1,"offset":2}}]}}`:         false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":{"epoch":"E"},"since":{}}]}}`:        false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","since":{"offset":18446744073709551616}}]}}`: false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","presence":1}]}}`:                            false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a","presence":false,"presence":true}]}}`:        false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"chat.a"}],"subscriptions":[]}}`:                      false,
	`{"id":1,"connect":{"subscriptions":{}}}`:                                                             false,
	`{"id":1,"connect":{"subscriptions":[{"channel":"a"},]}}`:                                             false,
	`{"id":1,"connect":{"client":{"name":"n"},"client":{"version":"1"}}}`:                                 false,
	`{"id":1,"connect":{"client":{"Name":"n"}}}`:                                                          false,
	`{"id":1,"connect":{"token":"a","token":"b"}}`:                                                        false,
	`{"id":1,"connect":{"token":"\\u0061"}}`:                                                              false,
	`{"id":1,"connect":{"token":null}}`:                                                                   false,
	`{"id":1,"connect":{"info":1,"info":2}}`:                                                              false,
	`{"id":1,"connect":{},"subscribe":{"channel":"a"}}`:                                                   false,
	`{"id":1,"connect":[]}`: false,
	`{"id":1,"subscribe":{"channel":"chat.a","since":{"epoch":"E","offset":9007199254740991}}}`: true,
	`{"subscribe":{"channel":"chat.a"},"id":3}`:                                                 true,
	`{"id":1,"subscribe":{"channel":"chat.a","other":1}}`:                                       false,
}

func nested(levels int) string {
	text := ""
	for range levels {
		text = "[" + text + "]"
	}
	return text
}

func TestReadInOnePass(t *testing.T) {
	t.Parallel()
	for text, want := range frames {
		if _, ok := decodeInOnePass([]byte(text)); ok != want {
			t.Errorf("%s: %t", text, ok)
		}
		sameInOnePass(t, []byte(text))
	}
}

// FuzzOnePass: what is read in one pass is what would be read in several.
func FuzzOnePass(f *testing.F) {
	for text := range frames {
		f.Add([]byte(text))
	}
	f.Fuzz(sameInOnePass)
}

func sameInOnePass(t *testing.T, text []byte) {
	t.Helper()
	got, ok := decodeInOnePass(text)
	if !ok {
		return
	}
	if want, err := decode(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q: %+v, want %+v, %v", text, got, want, err)
	}
}
