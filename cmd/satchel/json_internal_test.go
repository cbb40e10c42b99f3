package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"satchel/p2p"
	"satchel/p2p/control"
	"satchel/store/image/boot"
)

// fields calls f with the JSON name of every field below a type.
func fields(t reflect.Type, f func(name string)) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		fields(t.Elem(), f)
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			f(name)
			fields(t.Field(i).Type, f)
		}
	}
}

// Every field that --json prints is in JSON.md, so that none is renamed unnoticed.
func TestJSONIsDocumented(t *testing.T) {
	text, err := os.ReadFile("JSON.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{p2p.Status{}, p2p.VerifyResult{}, p2p.PruneResult{}, p2p.ExportResult{}, p2p.ImportResult{}, control.Header{}, control.Entry{}, published{}, switched{}, rootInfo{}, rootVerified{}, boot.Telling{}, p2p.ChangeResult{}, p2p.ImageStatus{}} {
		typ := reflect.TypeOf(v)
		fields(typ, func(name string) {
			if name == "" || !strings.Contains(string(text), name+"`") && !strings.Contains(string(text), `"`+name+`"`) {
				t.Errorf("%v: field %q is not in JSON.md", typ, name)
			}
		})
	}
}
