package trial

import (
	"net/http"
	"strings"
)

// Challenge is one way to log in that a server names (RFC 9110 section 11.6.1).
type Challenge struct {
	// Scheme is in lower case.
	Scheme  string `json:"scheme"`
	Realm   string `json:"realm,omitempty"`
	Service string `json:"service,omitempty"`
	Scope   string `json:"scope,omitempty"`
	// Error is why a token was not enough (RFC 6750 section 3).
	Error string `json:"error,omitempty"`
}

// ParseChallenges reads the WWW-Authenticate headers. What cannot be read is left
// out.
func ParseChallenges(header http.Header) []Challenge {
	var all []Challenge
	for _, text := range header.Values("WWW-Authenticate") {
		all = append(all, parseChallenges(text)...)
	}
	return all
}

// parseChallenges reads one header, in which several challenges and the
// parameters of each are parted by commas alike.
func parseChallenges(text string) []Challenge {
	var all []Challenge
	for {
		text = strings.TrimLeft(text, " \t,")
		var word string
		word, text = token(text)
		if word == "" {
			return all
		}
		rest := strings.TrimLeft(text, " \t")
		if strings.HasPrefix(rest, "=") && len(all) > 0 {
			var value string
			value, text = parameter(strings.TrimLeft(rest[1:], " \t"))
			all[len(all)-1].set(strings.ToLower(word), value)
			continue
		}
		if len(text) > 0 && text[0] != ' ' && text[0] != '\t' && text[0] != ',' {
			return all
		}
		all = append(all, Challenge{Scheme: strings.ToLower(word)})
	}
}

func (c *Challenge) set(name, value string) {
	switch name {
	case "realm":
		c.Realm = value
	case "service":
		c.Service = value
	case "scope":
		c.Scope = value
	case "error":
		c.Error = value
	}
}

// token cuts off a token (RFC 9110 section 5.6.2).
func token(text string) (word, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		end = len(text)
	}
	return text[:end], text[end:]
}

// parameter cuts off a value: quoted, or up to the next comma or space.
func parameter(text string) (value, rest string) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, ", \t")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:]
	}
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return out.String(), text[i+1:]
		case '\\':
			if i++; i < len(text) {
				out.WriteByte(text[i])
			}
		default:
			out.WriteByte(text[i])
		}
	}
	return out.String(), ""
}
