package transport_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/regkeeper/regkeeper/internal/transport"
)

func TestConceal(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"log in: 401", "log in: 401"},
		{"no password hunter2 here", "no password [redacted] here"},
		{"Authorization: Basic Ym90Omh1bnRlcjI=", "Authorization: Basic [redacted]"},
		{"Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl", "Bearer [redacted]"},
		{"Bearer realm is missing", "Bearer realm is missing"},
		{`Get "https://x/y?token=1&b=2": refused`, `Get "https://x/y?[redacted]": refused`},
		{`Get "/y?token=1": stopped`, `Get "/y?[redacted]": stopped`},
		{"GET https://u:p@x/y: refused", "GET https://[redacted]@x/y: refused"},
		{"GET https://x/v2/: 500", "GET https://x/v2/: 500"},
	} {
		inner := errors.New(test.text)
		err := transport.Conceal(fmt.Errorf("%w", inner), "bot", "hunter2")
		if err.Error() != test.want {
			t.Errorf("%q became %q, want %q", test.text, err.Error(), test.want)
		}
		if !errors.Is(err, inner) {
			t.Errorf("%q lost its chain", test.text)
		}
	}
	if transport.Conceal(nil, "bot", "hunter2") != nil {
		t.Error("nil became an error")
	}
}
