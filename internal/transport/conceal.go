package transport

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// Conceal makes an error of what came back over HTTP fit to be shown: without
// the login that was sent, should the server repeat it, without tokens, and
// without the queries of URLs, in which redirects carry signatures. The chain
// stays as it is. It returns nil for nil.
func Conceal(err error, username, password string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if password != "" {
		basic := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
		text = strings.NewReplacer(basic, concealed, password, concealed).Replace(text)
	}
	for _, hidden := range hiddenParts {
		text = hidden.ReplaceAllString(text, "${1}"+concealed+"${2}")
	}
	if text == err.Error() {
		return err
	}
	return quiet{text, err}
}

const concealed = "[redacted]"

var hiddenParts = []*regexp.Regexp{
	regexp.MustCompile(`(https?://)[^/\s"'@]+(@)`),
	regexp.MustCompile(`(/[^\s"'<>?#]*[?#])[^\s"'<>]+()`),
	regexp.MustCompile(`(?i)((?:basic|bearer) )[a-z0-9._~+/-]{16,}=*()`),
}

// quiet is an error with another text.
type quiet struct {
	text string
	err  error
}

func (q quiet) Error() string { return q.text }

func (q quiet) Unwrap() error { return q.err }
