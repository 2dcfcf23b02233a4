package trial

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/internal/transport"
)

const hidden = "[redacted]"

// shortSecret is how many bytes a secret has at least that is cut out of a text.
const shortSecret = 6

// hide keeps secrets out of what others sent back.
type hide struct{ secrets []string }

// hiding hides all that a login is shown by.
func hiding(login consumer.Login) *hide {
	h := &hide{}
	h.add(login.Password.Reveal())
	h.add(login.IdentityToken.Reveal())
	h.add(login.RegistryToken.Reveal())
	if !login.Password.Empty() {
		h.add(base64.StdEncoding.EncodeToString([]byte(login.Username + ":" + login.Password.Reveal())))
	}
	return h
}

// add hides one more secret, however it is written.
func (h *hide) add(secret string) {
	if secret == "" {
		return
	}
	quoted, _ := json.Marshal(secret)
	h.secrets = append(h.secrets, secret, url.QueryEscape(secret), url.PathEscape(secret), strings.Trim(string(quoted), `"`))
	// The longest first: one may be a part of another.
	slices.SortFunc(h.secrets, func(a, b string) int { return len(b) - len(a) })
}

// text is a text without them.
func (h *hide) text(text string) string {
	for _, secret := range h.secrets {
		// Cut out of words, a short one is told by what is missing.
		if len(secret) < shortSecret && strings.Contains(text, secret) {
			return hidden
		}
	}
	for _, secret := range h.secrets {
		text = strings.ReplaceAll(text, secret, hidden)
	}
	return transport.Conceal(errors.New(text), "", "").Error()
}

// endOf is when a login says that it ends: a JWT (RFC 7519 section 4.1.4), or the
// password that Amazon ECR hands out, which is a JSON document in base64 with a
// field "expiration".
func endOf(login consumer.Login) *time.Time {
	for _, secret := range []string{login.RegistryToken.Reveal(), login.IdentityToken.Reveal(), login.Password.Reveal()} {
		claims := jwt.RegisteredClaims{}
		if _, _, err := jwt.NewParser().ParseUnverified(secret, &claims); err == nil && claims.ExpiresAt != nil {
			end := claims.ExpiresAt.UTC()
			return &end
		}
		text, err := base64.StdEncoding.DecodeString(secret)
		if err != nil {
			continue
		}
		var document struct {
			Expiration int64 `json:"expiration"`
		}
		if json.Unmarshal(text, &document) == nil && document.Expiration > 0 {
			end := time.Unix(document.Expiration, 0).UTC()
			return &end
		}
	}
	return nil
}

// grants is what a token allows in a repository, nil if it cannot be read
// (distribution, docs/spec/auth/jwt.md).
func grants(text, repository string) []string {
	claims := struct {
		jwt.RegisteredClaims
		Access json.RawMessage `json:"access"`
	}{}
	if _, _, err := jwt.NewParser().ParseUnverified(text, &claims); err != nil || claims.Access == nil {
		return nil
	}
	var list []struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	if json.Unmarshal(claims.Access, &list) != nil {
		return nil
	}
	granted := []string{}
	for _, access := range list {
		if access.Type == "repository" && access.Name == repository {
			granted = append(granted, access.Actions...)
		}
	}
	return granted
}
