package state

import (
	"encoding/json"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/regkeeper/regkeeper/credential"
)

// The types below are the document as it is written. The ones that the rest of
// the program holds never write a secret, whoever marshals them; these do, and
// stay in this file.
type (
	documentText struct {
		Registries map[credential.Host]registryText          `json:"registries"`
		Places     map[string]map[credential.Place]placeText `json:"places"`
	}
	registryText struct {
		Intent   *intentText  `json:"intent,omitempty"`
		Next     *loginText   `json:"next,omitempty"`
		Current  *loginText   `json:"current,omitempty"`
		Retired  []*loginText `json:"retired,omitempty"`
		Verified time.Time    `json:"verified,omitzero"`
		Proof    proofText    `json:"proof,omitzero"`
		Trouble  *troubleText `json:"trouble,omitempty"`
	}
	proofText struct {
		Image   string `json:"image,omitempty"`
		Scheme  string `json:"scheme,omitempty"`
		Realm   string `json:"realm,omitempty"`
		Service string `json:"service,omitempty"`
	}
	intentText struct {
		Name   string    `json:"name"`
		At     time.Time `json:"at"`
		Origin string    `json:"origin,omitempty"`
	}
	loginText struct {
		ID       string          `json:"id"`
		Name     string          `json:"name,omitempty"`
		Host     credential.Host `json:"host"`
		Username string          `json:"username,omitempty"`
		Secret   string          `json:"secret,omitempty"`
		// Raw is the secret if it is no UTF-8, which no JSON string can hold.
		Raw     []byte            `json:"rawSecret,omitempty"`
		Scopes  credential.Scopes `json:"scopes,omitempty"`
		Issued  time.Time         `json:"issued,omitzero"`
		Expires time.Time         `json:"expires,omitzero"`
		Origin  string            `json:"origin,omitempty"`
		Terms   string            `json:"terms,omitempty"`
		Since   time.Time         `json:"since,omitzero"`
		Left    time.Time         `json:"left,omitzero"`
	}
	placeText struct {
		Delivered time.Time    `json:"delivered,omitzero"`
		Verified  time.Time    `json:"verified,omitzero"`
		Trouble   *troubleText `json:"trouble,omitempty"`
	}
	troubleText struct {
		Text  string    `json:"text"`
		Hint  string    `json:"hint,omitempty"`
		Since time.Time `json:"since"`
	}
)

// Encode writes a document as text, secrets included.
func Encode(doc *Document) ([]byte, error) {
	text := documentText{
		Registries: map[credential.Host]registryText{},
		Places:     map[string]map[credential.Place]placeText{},
	}
	for host, r := range doc.Registries {
		row := registryText{
			Intent: (*intentText)(r.Intent), Next: encodeLogin(r.Next), Current: encodeLogin(r.Current),
			Verified: r.Verified, Proof: proofText(r.Proof), Trouble: (*troubleText)(r.Trouble),
		}
		for _, retired := range r.Retired {
			login := encodeLogin(&retired.Credential)
			login.Since, login.Left = retired.Since, retired.Left
			row.Retired = append(row.Retired, login)
		}
		text.Registries[host] = row
	}
	for target, places := range doc.Places {
		text.Places[target] = map[credential.Place]placeText{}
		for place, p := range places {
			text.Places[target][place] = placeText{p.Delivered, p.Verified, (*troubleText)(p.Trouble)}
		}
	}
	out, err := json.MarshalIndent(text, "", "  ")
	return append(out, '\n'), err
}

// Decode reads a document that [Encode] wrote. Any error means that the text
// is not one, or not all of one.
func Decode(content []byte) (*Document, error) {
	var text documentText
	if err := json.Unmarshal(content, &text); err != nil {
		return nil, err
	}
	if text.Registries == nil || text.Places == nil {
		return nil, errors.New("document has no registries or no places")
	}
	doc := New()
	for host, row := range text.Registries {
		r := &Registry{
			Intent: (*Intent)(row.Intent), Next: decodeLogin(row.Next), Current: decodeLogin(row.Current),
			Verified: row.Verified, Proof: credential.Proof(row.Proof), Trouble: (*Trouble)(row.Trouble),
		}
		for _, login := range row.Retired {
			if login == nil {
				return nil, errors.New("a retired login is null")
			}
			r.Retired = append(r.Retired, &Retired{Credential: *decodeLogin(login), Since: login.Since, Left: login.Left})
		}
		doc.Registries[host] = r
	}
	for target, places := range text.Places {
		for place, p := range places {
			*doc.Place(target, place) = Place{p.Delivered, p.Verified, (*Trouble)(p.Trouble)}
		}
	}
	return doc, nil
}

func encodeLogin(c *Credential) *loginText {
	if c == nil {
		return nil
	}
	text := &loginText{
		ID: c.ID, Name: c.Name, Host: c.Host, Username: c.Username, Secret: c.Secret.Reveal(),
		Scopes: c.Scopes, Issued: c.Issued, Expires: c.Expires, Origin: c.Origin, Terms: c.Terms,
	}
	if !utf8.ValidString(text.Secret) {
		text.Secret, text.Raw = "", []byte(text.Secret)
	}
	return text
}

func decodeLogin(t *loginText) *Credential {
	if t == nil {
		return nil
	}
	secret := t.Secret
	if len(t.Raw) > 0 {
		secret = string(t.Raw)
	}
	return &Credential{
		Credential: credential.Credential{
			ID: t.ID, Name: t.Name, Host: t.Host, Username: t.Username, Secret: credential.NewSecret(secret),
			Scopes: t.Scopes, Issued: t.Issued, Expires: t.Expires,
		},
		Origin: t.Origin, Terms: t.Terms,
	}
}
