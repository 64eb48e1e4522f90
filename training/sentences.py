"""Words for speech outside the domain: what the model must answer with nothing.

Training draws random strings of these words and of made-up syllables; the sentences at the end
are kept for evaluation and never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.vocabulary import LANGUAGES

__all__ = ["FOREIGN_VOICES", "HELD_OUT_SENTENCES", "OUTSIDE", "Outside", "draw_outside", "words_of"]


def words_of(text: str) -> tuple[str, ...]:
    """The words of a list written as one text."""
    return tuple(text.split())


@dataclass(frozen=True)
class Outside:
    """One language's material: its espeak-ng voice, words, and syllables to make words of."""

    voice: str
    words: tuple[str, ...]
    onsets: tuple[str, ...]
    rimes: tuple[str, ...]


_ENGLISH = """the a and this that my your our his her is was are were will can not house river
morning train garden window water music letter teacher city market winter summer people question
answer yellow purple quickly slowly together tomorrow yesterday country island ship captain money
kitchen table bread butter coffee number seventeen eleven thirty hundred thousand before after
under because never always maybe please thank hello goodbye weather rain forest mountain village
horse elephant doctor nurse hospital library computer language speech voice microphone listen
remember forget travel airport ticket nation freedom ask country what do you of the with from some
every small large beautiful dangerous funny sister brother mother father children friend in on at
by about into over again further then once here there why how all any both each few more so ten
tent weave heaven fire height night wine line fix fourteen phone known late gate sun won"""

_MANDARIN = """jin1tian1 ming2tian1 tian1qi4 hen3 hao3 wo3 ni3 ta1 men5 de5 shi4 bu4 zai4 you3
xue2xiao4 lao3shi1 peng2you5 zhong1guo2 bei3jing1 shang4hai3 huo3che1 fei1ji1 ping2guo3 shui3 cha2
ka1fei1 mi3fan4 mian4tiao2 chi1fan4 shui4jiao4 gong1zuo4 xue2xi2 yin1yue4 dian4ying3 shu1 zhuo1zi5
men2 chuang1hu5 hong2se4 lan2se4 gao1xing4 kuai4 man4 da4 xiao3 duo1 shao3 shan1 he2 hai3 sen1lin2
yu3 xue3 feng1 zao3shang5 wan3shang5 xian4zai4 yi3hou4 yin1wei4 suo3yi3 ke3shi4 zhi1dao4 xi3huan5
mai3 mai4 qian2 dian4hua4 hao4ma3 yi1sheng1 yi1yuan4 jing3cha2 gong1si1 jing1li3 wen4ti2 da2an4
han4yu3 shuo1hua4 ting1 kan4 xie3 zou3 pao3 lai2 qu4 hui2jia1 fu4mu3 hai2zi5 mei4mei5 ge1ge5 gou3
mao1 ma3 niao3 yu2 hua1 shu4 shi2jian1 xing1qi1 nian2 yue4 hao4 ge4 zhei4 na4"""

_CANTONESE = """今日 聽日 天氣 好 我 你 佢 哋 嘅 係 唔 喺 有 學校 老師 朋友 香港 廣州 火車 飛機
蘋果 水 茶 咖啡 飯 麵 食飯 瞓覺 返工 讀書 音樂 電影 書 枱 門 窗 紅色 藍色 開心 快 慢 大 細 多 少
山 河 海 森林 落雨 落雪 風 朝早 夜晚 而家 之後 因為 所以 但係 知道 鍾意 買 賣 錢 電話 號碼 醫生
醫院 警察 公司 經理 問題 答案 廣東話 講嘢 聽 睇 寫 行 跑 嚟 去 返屋企 父母 細路 妹妹 哥哥 狗 貓 馬
雀仔 魚 花 樹 時間 星期 年 月 呢個 嗰個 點解 邊度 幾時 多謝 唔該 早晨 再見"""

_JAPANESE = """きょう あした てんき とても いい わたし あなた かれ たち の は が を です ます
でした がっこう せんせい ともだち にほん とうきょう おおさか でんしゃ ひこうき りんご みず おちゃ
コーヒー ごはん うどん たべます ねます しごと べんきょう おんがく えいが ほん つくえ ドア まど
あかい あおい うれしい はやい おそい おおきい ちいさい たくさん すこし やま かわ うみ もり あめ
ゆき かぜ あさ よる いま あとで だから でも しっています すき かいます うります おかね でんわ
ばんごう いしゃ びょういん けいさつ かいしゃ しゃちょう しつもん こたえ ことば はなす きく みる
かく あるく はしる くる いく かえる りょうしん こども いもうと おにいさん いぬ ねこ うま とり
さかな はな き じかん しゅうまつ ねん つき これ それ どこ いつ ありがとう おはよう さようなら
すみません"""

_KOREAN = """오늘 내일 날씨 아주 좋은 나는 너는 그는 우리 의 은 을 입니다 합니다 했습니다 학교
선생님 친구 한국 서울 부산 기차 비행기 사과나무 물 차 커피 밥 국수 먹어요 자요 회사 공부하다 음악
영화 책 책상 문 창문 빨간색 파란색 기뻐요 빨리 천천히 큰 작은 많이 조금 산 강 바다 숲 비 눈 바람
아침 저녁 지금 나중에 그래서 하지만 알아요 좋아해요 사다 팔다 돈 전화번호 의사 병원 경찰 사장님
질문 대답 한국어 말하다 듣다 보다 쓰다 걷다 달리다 오다 가다 집 부모님 아이 여동생 오빠 강아지
고양이 말 새 물고기 꽃 나무 시간 주말 년 월 이것 저것 어디 언제 감사합니다 안녕하세요 미안합니다"""

_GERMAN = """das ist mein Haus heute scheint die Sonne wir gehen in den Garten morgen kommt der
Zug nach Berlin bitte danke Wasser Brot Schule Lehrer Freund schnell langsam rot blau Fenster"""
_FRENCH = """bonjour la maison est belle nous allons au marché demain il pleut beaucoup merci le
train arrive ce soir avec mon ami petit grand rouge fenêtre école musique jardin"""
_SPANISH = """buenos días la casa es grande vamos al mercado mañana llueve mucho gracias el tren
llega esta noche con mi amigo pequeño rojo ventana escuela música jardín agua"""
_ITALIAN = """buongiorno la casa è bella andiamo al mercato domani piove molto grazie il treno
arriva stasera con il mio amico piccolo rosso finestra scuola musica giardino"""
_RUSSIAN = """сегодня хорошая погода мы идём домой завтра поезд в москву спасибо пожалуйста вода
хлеб школа учитель друг быстро медленно красный синий окно музыка сад"""

_LATIN_ONSETS = words_of("b ch d f g h j k l m n p r s sh t th v w y z st tr pl br")
_LATIN_RIMES = words_of("a e i o u ay ee oo ar er on in un al el ash eck id ock um")
_PINYIN_ONSETS = words_of("b p m f d t n l g k h j q x zh ch sh r z c s")
_PINYIN_RIMES = words_of("a1 a4 i2 i4 u3 u4 ang1 ang2 en2 en4 ai3 ai4 ao1 ao3 ing2 ing4 e4")
_KANA_ONSETS = tuple("かきけこさしすたちつてとなぬねのひふへほまみむめもらりれわがぎだばびぶ")
_KANA_RIMES = ("", "", "ん", "い", "う", "っか", "ょう", "ら", "す", "る")
_HANGUL_ONSETS = tuple("가나다라마바사아자차카타파하거너더러머버서어저고노도로모보소조그느드르므")
_HANGUL_RIMES = ("", "", "는", "리", "기", "지", "다", "면", "고", "래")

OUTSIDE: Final[dict[str, Outside]] = {
    "en": Outside("en-us", words_of(_ENGLISH), _LATIN_ONSETS, _LATIN_RIMES),
    "zh": Outside("cmn-latn-pinyin", words_of(_MANDARIN), _PINYIN_ONSETS, _PINYIN_RIMES),
    "yue": Outside("yue", words_of(_CANTONESE), tuple("天地人心花風雨山水火"), tuple("好大小長高")),
    "ja": Outside("ja", words_of(_JAPANESE), _KANA_ONSETS, _KANA_RIMES),
    "ko": Outside("ko", words_of(_KOREAN), _HANGUL_ONSETS, _HANGUL_RIMES),
}

FOREIGN_VOICES: Final[dict[str, Outside]] = {
    voice: Outside(voice, words_of(words), _LATIN_ONSETS, _LATIN_RIMES)
    for voice, words in (
        ("de", _GERMAN),
        ("fr", _FRENCH),
        ("es", _SPANISH),
        ("it", _ITALIAN),
        ("ru", _RUSSIAN),
    )
}


def draw_outside(rng: np.random.Generator, material: Outside) -> str:
    """Random words, made-up words, or both, one to ten of them, with a comma here and there."""
    share_made_up = rng.choice([0.0, 0.2, 1.0], p=[0.5, 0.3, 0.2])
    words = []
    for _ in range(int(rng.integers(1, 11))):
        if rng.random() < share_made_up:
            words.append(_make_word(rng, material))
        else:
            words.append(str(rng.choice(material.words)))
        if rng.random() < 0.08:
            words[-1] += ","
    text = " ".join(words)
    # One short word alone may sound as a digit does: give it company.
    return text if len(words) > 1 else f"{text} {_make_word(rng, material)}"


def _make_word(rng: np.random.Generator, material: Outside) -> str:
    digits = {word for language in LANGUAGES.values() for word in language.spoken}
    while True:
        syllables = [
            str(rng.choice(material.onsets)) + str(rng.choice(material.rimes))
            for _ in range(int(rng.integers(1, 4)))
        ]
        if not digits.intersection(syllables):
            return "".join(syllables)


HELD_OUT_SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    "en-us": (
        "The old clock in the hall had stopped working again.",
        "Could you tell me where the nearest bakery is?",
        "She painted the fence green on a warm afternoon.",
        "Nobody expected the meeting to end so early.",
        "The river rises quickly when the snow melts.",
        "I left my umbrella on the bus this morning.",
        "A good story needs a patient listener.",
        "They moved the piano up the stairs with great care.",
        "Turn left at the church and walk along the wall.",
        "Our neighbour grows tomatoes behind the garage.",
        "The lecture was cancelled because of the storm.",
        "Open the box gently, there is glass inside.",
    ),
    "cmn-latn-pinyin": (
        "wo3men5 zhou1mo4 qu4 gong1yuan2 san4bu4",
        "qing3 ba3 chuang1hu5 guan1 shang4",
        "zhe4 jia1 can1ting1 de5 cai4 hen3 hao3chi1",
        "ta1 mei2tian1 zao3shang5 dou1 he1 niu2nai3",
        "huo3che1zhan4 zen3me5 zou3",
        "hai2zi5men5 zai4 yuan4zi5 li3 wan2",
        "wai4mian4 xia4zhe5 da4yu3",
        "wo3 wang4 le5 dai4 yao4shi5",
        "ni3 jue2de5 zhe4 ben3 shu1 zen3me5yang4",
        "tu2shu1guan3 yi3jing1 guan1men2 le5",
        "ma1ma5 zai4 chu2fang2 zuo4 fan4",
        "qing3 ni3 shuo1 man4 yi4dian3",
    ),
    "yue": (
        "我哋周末去公園散步",
        "唔該幫我閂咗個窗",
        "呢間餐廳啲嘢好好食",
        "佢每朝都飲牛奶",
        "請問火車站點去",
        "啲細路喺花園玩",
        "出面落緊大雨",
        "我唔記得帶鎖匙",
        "你覺得呢本書點樣",
        "圖書館已經閂門",
        "媽媽喺廚房煮飯",
        "請你講慢啲",
    ),
    "ja": (
        "しゅうまつは こうえんを さんぽ します",
        "まどを しめて ください",
        "この みせの りょうりは とても おいしい",
        "かのじょは まいあさ ぎゅうにゅうを のみます",
        "えきまで どうやって いきますか",
        "こどもたちが にわで あそんで います",
        "そとは おおあめ です",
        "かぎを わすれて しまいました",
        "この ほんを どう おもいますか",
        "としょかんは もう しまって います",
        "ははは だいどころで りょうりを しています",
        "もう すこし ゆっくり はなして ください",
    ),
    "ko": (
        "주말에 공원에서 산책을 해요",
        "창문을 닫아 주세요",
        "이 식당 음식이 정말 맛있어요",
        "그녀는 아침마다 우유를 마셔요",
        "기차역까지 어떻게 가나요",
        "아이들이 마당에서 놀고 있어요",
        "밖에는 비가 많이 와요",
        "열쇠를 가져오는 것을 잊었어요",
        "이 책을 어떻게 생각해요",
        "도서관은 벌써 문을 닫았어요",
        "어머니는 부엌에서 요리를 하세요",
        "조금 더 천천히 말해 주세요",
    ),
    "de": (
        "Am Wochenende gehen wir im Park spazieren.",
        "Könnten Sie bitte das Fenster schließen?",
        "Der Hund liegt unter dem Tisch und schläft.",
        "Gestern haben wir einen langen Film gesehen.",
    ),
    "pt-br": (
        "No fim de semana vamos passear no parque.",
        "Você pode fechar a janela, por favor?",
        "O cachorro dorme embaixo da mesa.",
        "Ontem assistimos a um filme muito longo.",
    ),
    "pl": (
        "W weekend idziemy na spacer do parku.",
        "Czy możesz zamknąć okno?",
        "Pies śpi pod stołem.",
        "Wczoraj oglądaliśmy bardzo długi film.",
    ),
}
