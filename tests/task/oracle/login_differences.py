"""In what our logins differ from those of Microsoft's libraries on purpose, and why.

Each difference is a claim about both sides. What is called a defect must not be copied; the rest
are choices.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing in which requests or outcomes differ; None is its absence."""

    case: str
    hop: str
    field: str
    theirs: str | None
    ours: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that is meant: hop, field, values and cases are patterns, None is absence."""

    what: str
    why: str
    hop: str
    field: str
    theirs: str | None
    ours: str | None
    cases: str = ".*"

    def explains(self, seen: Seen) -> bool:
        """Tell whether *seen* is this difference."""
        patterns = (self.hop, self.field, self.theirs, self.ours, self.cases)
        values = (seen.hop, seen.field, seen.theirs, seen.ours, seen.case)
        return all(map(_fits, patterns, values))


def _fits(pattern: str | None, value: str | None) -> bool:
    if pattern is None or value is None:
        return pattern is value
    return re.fullmatch(pattern, value) is not None


_GUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DEFECT = "a defect of theirs: "
DIFFERENCES = [
    # Azure DevOps
    Difference(
        "addresses are known",
        "they have been the same for years, and each question is one more that can fail",
        "discovery",
        "request",
        r"(OPTIONS|GET) dev\.azure\.com/contoso/_apis/(Location|ResourceAreas|distributedtask)",
        None,
    ),
    Difference(
        "the version of the interface is in the query",
        "where @azure/identity has it, too",
        "OIDC token|secure file",
        "query api-version",
        None,
        r"7\.1|5\.0-preview\.1",
    ),
    Difference(
        "a version is not part of a media type",
        "it is in the query, and no preview of it is needed",
        "OIDC token|secure file",
        "header accept",
        r"application/(json|octet-stream);api-version=7\.2-preview\.1",
        "application/(json|octet-stream)",
    ),
    Difference(
        "nothing is posted for an ID token",
        "there is nothing to say; @azure/identity does the same",
        "OIDC token",
        "body",
        r"\{\}",
        "",
    ),
    Difference(
        "JSON and forms have no character set",
        "their media types have no such parameter",
        "OIDC token|Entra ID",
        "header content-type",
        r"(application/.*); ?charset=utf-8",
        r"application/(json|x-www-form-urlencoded)",
    ),
    Difference(
        "an ID token is asked for once",
        _DEFECT + "@azure/identity asks a second time and throws the first answer away",
        "OIDC token",
        "request",
        "POST .*/oidctoken",
        None,
        cases="federation, access token",
    ),
    # Microsoft Entra ID and the metadata service
    Difference(
        "the program and its requests are not described",
        "it is no part of OAuth, and Azure DevOps and Entra name their own answers",
        "OIDC token|Entra ID|managed identity",
        r"(query|form) client-request-id|header x-(ms-)?client-.*|form x-(ms|client)-.*",
        ".*",
        None,
    ),
    Difference(
        "a request without a body has no media type",
        _DEFECT + "@azure/identity announces a form",
        "managed identity",
        "header content-type",
        "application/x-www-form-urlencoded;charset=utf-8",
        None,
        cases="managed, access token",
    ),
    Difference(
        "what is understood is said",
        "so that proxies and gateways do not answer with a page for people",
        ".*",
        "header accept",
        None,
        "application/json",
    ),
    Difference(
        "an authority is believed to be where it says",
        "the address for tokens is the same for every tenant; no document has to say it",
        "discovery",
        "request",
        r"GET login\.partner\.microsoftonline\.cn/.*/\.well-known/openid-configuration",
        None,
        cases="federation, China",
    ),
    Difference(
        "an authority keeps its name",
        "both are names of the same service in China",
        "Entra ID",
        "host",
        r"login\.partner\.microsoftonline\.cn",
        r"login\.chinacloudapi\.cn",
        cases="federation, China",
    ),
    Difference(
        "a registry says which cloud it is in",
        _DEFECT + "without a named authority they ask the public cloud, which knows no such tenant",
        "Entra ID",
        "host",
        r"login\.microsoftonline\.com",
        r"login\.chinacloudapi\.cn",
        cases="federation, unnamed China",
    ),
    Difference(
        "a managed identity is one of its own cloud",
        _DEFECT + "they ask for a token for the public cloud everywhere",
        "managed identity",
        "query resource",
        r"https://management\.core\.windows\.net/",
        r"https://management\.core\.chinacloudapi\.cn/",
        cases="managed, China",
    ),
    Difference(
        "the resource that the server has named is used",
        "it is what the connection's URL is only by habit; the agent itself does the same",
        "Entra ID",
        "form scope",
        r"https://management\.azure\.com//\.default",
        r"https://management\.core\.windows\.net//\.default",
        cases="federation, resource",
    ),
    Difference(
        "a registry's address is no resource of Entra's",
        _DEFECT + "Terraform puts it into the URL, and they ask for a token for that",
        "Entra ID",
        "form scope",
        r"https://contoso\.azurecr\.io/\.default",
        r"https://management\.core\.windows\.net//\.default",
        cases="federation, Terraform",
    ),
    # The registry
    Difference(
        "a form is encoded",
        _DEFECT + "a plus sign arrives as a blank",
        "exchange",
        "form access_token",
        r"eyJ\.(\w+) /=\.token",
        r"eyJ\.(\w+)\+/=\.token",
    ),
    Difference(
        "a registry that takes no ARM tokens is offered one of its own kind",
        _DEFECT + "they give up, and say that a managed identity is not configured properly",
        "OIDC token|Entra ID|exchange",
        "request",
        None,
        r"POST .*/(oidctoken|oauth2/exchange"
        r"|oauth2/v2\.0/token https://containerregistry\.azure\.net/\.default)",
        cases="federation, no ARM tokens",
    ),
    Difference(
        "a stranger gets no token",
        _DEFECT + "unless a feature flag is on, they send it to any host",
        "OIDC token|Entra ID|managed identity|exchange",
        "request",
        ".*",
        None,
        cases="(managed|federation), stranger",
    ),
    Difference(
        "a stranger gets no secret",
        _DEFECT + "as before",
        "outcome",
        "registry|username|password",
        ".*",
        None,
        cases=".*, stranger",
    ),
    Difference(
        "a stranger is named",
        "the author of the pipeline has to correct the connection",
        "outcome",
        "error",
        None,
        r".*: expected a registry of Azure such as .*, got 'registry\.example\.com'\..*",
        cases=".*, stranger",
    ),
    # What comes of it
    Difference(
        "a registry is logged in to by its host",
        "Docker looks logins up by host, with one exception: Docker Hub",
        "outcome",
        "registry",
        r"https://(reg\.example\.com|contoso\.azurecr\.io)/(v2/)?",
        r"reg\.example\.com|contoso\.azurecr\.io",
        cases="another registry|principal, address",
    ),
    Difference(
        "an address is read as a host",
        _DEFECT + "they build https://https://… of it",
        "exchange",
        "request",
        None,
        r"POST contoso\.azurecr\.io/oauth2/exchange",
        cases="federation, address",
    ),
    Difference(
        "there is no error where there need be none",
        _DEFECT + "as before",
        "outcome",
        "error",
        r"no route to https:443|CouldNotFetchAccessToken\w+ 401 Unauthorized",
        None,
        cases="federation, (address|no ARM tokens)",
    ),
    Difference(
        "old connections still work",
        _DEFECT + "they lower-case the JSON, and then look for loginServer",
        "outcome",
        "value",
        "None",
        None,
        cases="principal, old JSON",
    ),
    Difference(
        "there is a login where there can be one",
        _DEFECT + "as before",
        "outcome",
        "registry|username|password",
        None,
        rf"contoso\.azurecr\.io|{_GUID}|s3cret.*|eyJ\.refresh\.token",
        cases="principal, old JSON|federation, (address|no ARM tokens)",
    ),
    Difference(
        "a refusal has a sentence and a remedy",
        "what a server answers is for its programmers",
        "outcome",
        "error",
        r"Failed to download secure file\. HTTP 401: .*",
        r"secure file ci\.key: .* does not let this job read it .*\. Authorize the pipeline .*",
        cases="secure file, refused",
    ),
]
