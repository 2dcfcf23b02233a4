package ecr_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/source/ecr"
)

// answering answers everything with one body.
type answering []byte

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(bytes.NewReader(a)),
	}, nil
}

// FuzzAnswer sees that an answer makes a whole login that is good for a while,
// or none.
func FuzzAnswer(f *testing.F) {
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_MAX_ATTEMPTS": "1",
		"AWS_ACCESS_KEY_ID": keyID, "AWS_SECRET_ACCESS_KEY": secretKey,
	} {
		f.Setenv(name, value)
	}
	for _, seed := range []string{
		"", "{}", "null", `{"authorizationData":[{"authorizationToken":"QVdTOmh1bnRlcjI=","expiresAt":1e11}]}`,
		`{"authorizationData":[{"authorizationToken":"QVdTOmh1bnRlcjI="}]}`, `{"authorizationData":[null]}`,
		`{"authorizationData":[{"authorizationToken":"Og==","expiresAt":"x"}]}`, `{"authorizationData":[{"expiresAt":-1e300}]}`,
	} {
		f.Add([]byte(seed), "images.example.com")
	}
	f.Add([]byte(`{"authorizationData":[{"authorizationToken":"QVdTOmI6Yw=="}]}`), string(host))
	f.Fuzz(func(t *testing.T, body []byte, host string) {
		source := ecr.New(ecr.Config{Region: "eu-north-1", Transport: answering(body), Now: func() time.Time { return noon }})
		login, err := source.Issue(t.Context(), credential.Request{Host: credential.Host(host)})
		if err != nil {
			if login.ID != "" || !login.Secret.Empty() {
				t.Errorf("an error with the login %+v", login)
			}
			return
		}
		if login.ID == "" || login.Username == "" || login.Secret.Empty() || !login.Expires.After(noon) || string(login.Host) != host {
			t.Errorf("half a login: %+v", login)
		}
	})
}
